import { testShortForm } from '../support/failure-run.ts'

testShortForm('postmaster-killed')
