import { testShortForm } from '../support/failure-run.ts'

testShortForm('smtp-faults')
