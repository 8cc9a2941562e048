import { testShortForm } from '../support/failure-run.ts'

testShortForm('poison-templates')
