import { testShortForm } from '../support/failure-run.ts'

testShortForm('backends-terminated')
